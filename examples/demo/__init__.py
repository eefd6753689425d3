"""A company's app with previews on its own hosts, an emulated provider and two sample machines, in one process."""
