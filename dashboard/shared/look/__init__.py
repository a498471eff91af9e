"""How things look: the style sheet, colours, and small pieces of HTML and of charts that several pages draw."""
