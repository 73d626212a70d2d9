"""What does this node count for Prometheus?"""
