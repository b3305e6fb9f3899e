"""Rasters, and the only user of rasterio but vector.py."""
