"""A job's record as a person sees it: a trace for Perfetto (`trace`)."""
