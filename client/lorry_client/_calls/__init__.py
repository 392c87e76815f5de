"""Every call of the contract as a value: pure functions from arguments to requests, and from answers to results."""
