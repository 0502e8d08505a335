"""A synthetic subject whose truth is known exactly: body, garments, camera, light and albedo."""
