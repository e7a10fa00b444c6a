"""A job's record as a person sees it: a page for the browser (`page`), a trace for Perfetto (`trace`)."""
