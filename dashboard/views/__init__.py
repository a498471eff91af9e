"""The pages, one folder each; Streamlit runs the `page.py` of each as a script.

The folder is not called pages: beside an entrance script Streamlit takes a folder of that name for an app of its older
kind, and a link to a page that is the first visit to a fresh server would run the page without the entrance.
"""
