"""What does the operator's account send?"""
