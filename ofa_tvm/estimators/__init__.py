"""What everything that learns about subnets shares: contract, files, Gaussian process, metrics."""
