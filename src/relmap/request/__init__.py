"""From a call to a recorded pass: what was given, to which model, by which method.

`readers` take pictures, texts and sounds as people have them, `processors` make arguments of the
forward out of them, `forward_arguments` makes these ready for one network. `compatibility` says
which backwards a method works with, `layouts` where the tokens lie, and `request` puts the call
together.
"""
