"""The domain: what is stored, what may happen to it, and how a run is carried out. Knows neither HTTP nor workers."""
