"""Small operations on one example, a file per modality, and the preprocessing that encoders carry."""
