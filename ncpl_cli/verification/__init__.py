"""A certificate for anybody's code: reference cases with right values, and where a function departs from them."""
