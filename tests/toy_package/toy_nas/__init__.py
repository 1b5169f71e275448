"""What a package of somebody else brings to nni-plugins: two methods and a search space."""
