"""What people look at: activation index, examples, logit lens, matching, atom map, labels."""
