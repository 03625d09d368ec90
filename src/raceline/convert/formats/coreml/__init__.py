"""What Raceline knows of Core ML: packages, the protobuf message, blobs of weights and ML program operations."""
