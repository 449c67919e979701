"""Networks: by name, traced, cut into fragments, folded, averaged, saved."""
