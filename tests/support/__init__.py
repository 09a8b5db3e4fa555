"""What tests of several folders share: small objects to compare, kernels to test with."""
