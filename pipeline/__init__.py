"""From labelled images to a scored, exported ensemble of convolutional networks."""
