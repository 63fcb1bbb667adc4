"""How a workflow stands, for people: a tree for the terminal, a timeline as SVG or HTML, a trace for Perfetto. Pure."""
