"""curating"""
