"""The report of a run, or of several seeds of it: its figures, what they amount to, and the page that shows them."""
