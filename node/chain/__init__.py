"""What is final, and what follows from it?"""
