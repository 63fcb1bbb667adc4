"""``kaasq doctor``: checks whatever a request passes on its way, and says how to mend what is broken."""
