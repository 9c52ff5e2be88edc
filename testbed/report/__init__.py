"""`gcos report`: one page that says against what each percentage is meant, and where ours loses.

`sources` reads evaluations and exported runs, `findings` and `fronts` compute what is shown,
`plots` draws, `page` writes. What is computed is pure and tested on its own.
"""
