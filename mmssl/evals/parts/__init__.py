"""What evaluations share: samples in, labels, fitting, figures out."""
