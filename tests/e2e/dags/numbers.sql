select number, name from numbers where number < {{ params.n }} order by number
