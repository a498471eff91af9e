"""Many runs over combinations of settings: which there are, doing them, and choosing among them."""
