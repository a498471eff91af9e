"""Files: written whole or not at all, read without surprises, mapped, as tables and as spreadsheets."""
