"""What several pages share: the address bar, filters, pins, labels, and what is read and drawn alike."""
