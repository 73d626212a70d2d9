"""What is prepared and checked before a node runs?"""
