from small_module import small as small
from verbs import ofa as ofa
