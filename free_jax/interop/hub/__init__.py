"""Folders of classifiers as model hubs have them."""
