from small_module import small as small
