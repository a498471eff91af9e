"""The Streamlit app that browses saved ensembles."""
