"""What `jiffy check` reads unless it is given another text."""

TEXT = """\
The lighthouse at the end of the bay had been dark for eleven years when Ines Okafor bought it. She was an engineer, not
a sailor, and she wanted a quiet place to write a book about bridges. The house at its foot had four rooms, a stove, and
a cistern that held rain. "You will be bored by October," her brother said. He was wrong by exactly one month: in
November the first storm came, and with it a boat.

It was a small boat, 7.5 metres long, with two people aboard and no engine that worked. Ines saw their torch from the
kitchen window at about 2 a.m. She could not reach them, and the radio only hissed. So she climbed the 143 steps, found
the old lamp, and did what she knew how to do. The mechanism was simple: a motor turned a lens, a switch fed a bulb.
The motor was rusted, but the bulb, to her surprise, was not broken. She took the battery out of her car, carried it up
in a rucksack, and turned the lens by hand, one turn every ten seconds, until the sky grew pale.

Why ten seconds? Because that was the rhythm printed on the charts, and a light that keeps another rhythm is a different
light. A sailor who counts to ten and sees the flash knows where the rocks are; one who counts to eight knows nothing,
or worse, knows something false. The two people in the boat counted, turned their bow to the south, and drifted into
the harbour with the tide. They never learned whose arm it had been. Ines slept until noon, and then began, on a clean
page, a different book.
"""
