select name, born from people where name like '{{ params.letter }}%' order by name
