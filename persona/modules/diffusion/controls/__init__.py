"""What generators are told of the posed body and the photograph, as they were trained to see it."""
