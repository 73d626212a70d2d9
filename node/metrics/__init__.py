"""What does this node report to Prometheus?"""
