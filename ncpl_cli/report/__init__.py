"""A study as a document: material from the store -> sections of text, tables and figures -> html, md, json or csv."""
