"""What happens around the steps of a training: lines, pictures, checkpoints, changes on the way."""
