"""What each kind of operation does to tokens. A file for each kind; `trace.table` lists them."""
