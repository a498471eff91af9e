"""The settings of a run: their sections, bounds, presets and TOML files."""
