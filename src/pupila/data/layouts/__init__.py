"""How files become labelled pictures: class folders, tables, parquet, published formats."""
