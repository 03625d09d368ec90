"""What Raceline knows of OpenVINO's IR: the XML, the weights beside it and the operations."""
