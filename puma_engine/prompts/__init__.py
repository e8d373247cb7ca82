"""Tables of soft prompts, and fitting them on a frozen backbone."""
