"""What a trained model says, kept as a table (`predictions`), scored (`scores`), stored (`bundle`) and asked (`predictor`)."""
