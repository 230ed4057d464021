"""What answers without a language model: copies of known answers, classifiers, and floors."""
