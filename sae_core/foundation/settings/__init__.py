"""Settings of a run: their bounds, the settings themselves, presets and files of them."""
