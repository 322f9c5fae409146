"""The subject both sides share: readings, windows, forecasts, scores, bundles, the registry."""
