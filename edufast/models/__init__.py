"""Networks: built by name, traced, cut, tapped, folded, averaged, saved."""
