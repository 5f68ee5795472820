"""Echo state networks: a random recurrent network of which only the readout is learned, by linear regression."""
