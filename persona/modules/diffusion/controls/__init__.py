"""Pictures of the posed body and the photograph in the form that each generator was trained on."""
