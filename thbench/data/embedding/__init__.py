"""Audio encoders, and the embeddings of a data set's audio that are kept on disk."""
